;; Exports by the right names that are not functions.
;; expect: load UNSUPPORTED sp_step must be a function
(module (memory (export "memory") 1) (global (export "sp_step") i32 (i32.const 2)))
