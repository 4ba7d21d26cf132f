;; sp_step with a parameter: the host would call it without one.
;; expect: load UNSUPPORTED sp_step must be a function without parameters that returns an i32
(module (memory (export "memory") 1) (func (export "sp_step") (param i32) (result i32) (i32.const 2)))
