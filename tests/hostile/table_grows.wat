;; A table that grows until it may not, and a call through an element that is not there.
;; expect: step GUEST uninitialized element
;; limits: table_elements=1000
(module
  (type $f (func (result i32)))
  (memory (export "memory") 1)
  (table 1 funcref)
  (func (export "sp_step") (result i32)
    (if (i32.ne (table.grow (ref.null func) (i32.const 999)) (i32.const 1)) (then unreachable))
    (if (i32.ne (table.grow (ref.null func) (i32.const 1)) (i32.const -1)) (then unreachable))
    (if (i32.ne (table.grow (ref.null func) (i32.const -1)) (i32.const -1)) (then unreachable))
    (call_indirect (type $f) (i32.const 999))))
