;; expect: load UNSUPPORTED sp_step must be a function without parameters that returns an i32
(module (memory (export "memory") 1) (func (export "sp_step") (result f64) (f64.const 2)))
