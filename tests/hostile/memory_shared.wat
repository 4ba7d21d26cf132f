;; Threads are off: a memory that another thread changes could not be checked.
;; expect: load FORMAT threads
(module (memory (export "memory") 1 2 shared) (func (export "sp_step") (result i32) (i32.const 2)))
