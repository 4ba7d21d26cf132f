;; expect: load UNSUPPORTED does not have
(module (import "samepage" "shell" (func (param i32))) (memory (export "memory") 1) (func (export "sp_step") (result i32) (i32.const 2)))
