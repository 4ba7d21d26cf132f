;; The start section calls imports before there is an instance.
;; expect: done
(module
  (import "samepage" "last_error" (func $last_error (param i32 i32) (result i32)))
  (import "samepage" "region_open" (func $region_open (param i32 i32) (result i32)))
  (import "samepage" "send" (func $send (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $start
    (if (i32.ne (call $region_open (i32.const 65536) (i32.const 1)) (i32.const -12)) (then unreachable))
    (if (i32.lt_s (call $region_open (i32.const 0) (i32.const 65536)) (i32.const 0)) (then unreachable))
    (if (i32.ne (call $last_error (i32.const -1) (i32.const 1)) (i32.const -12)) (then unreachable))
    (if (i32.ne (call $send (i32.const 0) (i32.const 65536)) (i32.const 0)) (then unreachable)))
  (start $start)
  (func (export "sp_step") (result i32) (i32.const 2)))
