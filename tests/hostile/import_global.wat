;; expect: load UNSUPPORTED which is no function
(module (import "env" "g" (global i32)) (memory (export "memory") 1) (func (export "sp_step") (result i32) (global.get 0)))
