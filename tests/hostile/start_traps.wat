;; expect: spawn GUEST integer divide by zero
(module
  (memory (export "memory") 1)
  (func $start (drop (i32.div_s (i32.const 1) (i32.const 0))))
  (start $start)
  (func (export "sp_step") (result i32) (i32.const 2)))
