;; expect: load FORMAT memory64
(module (memory (export "memory") i64 1) (func (export "sp_step") (result i32) (i32.const 2)))
