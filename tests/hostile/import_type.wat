;; An import under another type.
;; expect: load UNSUPPORTED does not have
(module
  (import "samepage" "send" (func (param i64 i64 i64) (result i64)))
  (memory (export "memory") 1)
  (func (export "sp_step") (result i32) (i32.const 2)))
