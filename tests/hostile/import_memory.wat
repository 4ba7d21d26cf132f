;; expect: load UNSUPPORTED imports its memory
(module (import "env" "memory" (memory 1)) (export "memory" (memory 0)) (func (export "sp_step") (result i32) (i32.const 2)))
