;; The start section does not end. Nobody holds the actor yet who could interrupt it.
;; expect: spawn LIMIT --limit-step-ms
;; limits: step_ms=100
(module
  (memory (export "memory") 1)
  (func $forever (loop (br 0)))
  (start $forever)
  (func (export "sp_step") (result i32) (i32.const 2)))
