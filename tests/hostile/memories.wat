;; expect: load FORMAT multiple memories
(module (memory (export "memory") 1) (memory 1) (func (export "sp_step") (result i32) (i32.const 2)))
