;; All 4 GiB: costs address space alone; its last byte is inside, what begins there is not.
;; expect: done
(module
  (import "samepage" "send" (func $send (param i32 i32) (result i32)))
  (memory (export "memory") 65536)
  (func (export "sp_step") (result i32)
    (if (i32.ne (call $send (i32.const -1) (i32.const 1)) (i32.const 0)) (then unreachable))
    (if (i32.ne (call $send (i32.const -1) (i32.const 2)) (i32.const -12)) (then unreachable))
    (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
    (i32.const 2)))
