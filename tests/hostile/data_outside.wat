;; Initial data that does not fit.
;; expect: spawn GUEST out of bounds memory access
(module (memory (export "memory") 1) (data (i32.const 65535) "ab") (func (export "sp_step") (result i32) (i32.const 2)))
