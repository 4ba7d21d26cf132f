;; Addresses whose sum with the offset is beyond 4 GiB lie in the guard, not at the beginning.
;; expect: step GUEST out of bounds memory access
(module
  (memory (export "memory") 1)
  (func (export "sp_step") (result i32)
    (i32.store offset=0xffffffff (i32.const 2) (i32.const 1))
    (i32.const 2)))
