;; Bulk operations over the end.
;; expect: step GUEST out of bounds memory access
(module
  (memory (export "memory") 1)
  (func (export "sp_step") (result i32)
    (memory.fill (i32.const 0) (i32.const 255) (i32.const 65536))
    (memory.copy (i32.const 1) (i32.const 0) (i32.const 65535))
    (memory.fill (i32.const 65536) (i32.const 255) (i32.const 0))
    (memory.fill (i32.const 1) (i32.const 0) (i32.const -1))
    (i32.const 2)))
