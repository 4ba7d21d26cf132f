;; A name that would change the reader's terminal, and one that says that a limit was reached.
;; expect: step GUEST unreachable
(module
  (memory (export "memory") 1)
  (func $inner (@name "\1b[2J\0d\0athe step took longer than its limit interrupted stopped\c2\9b") unreachable)
  (func (export "sp_step") (result i32) (call $inner) (i32.const 2)))
