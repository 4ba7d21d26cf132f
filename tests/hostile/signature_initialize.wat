;; expect: load UNSUPPORTED _initialize must be a function without parameters that returns nothing
(module
  (memory (export "memory") 1)
  (func (export "_initialize") (param i64))
  (func (export "sp_step") (result i32) (i32.const 2)))
