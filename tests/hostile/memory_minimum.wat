;; Starts larger than it may be.
;; expect: spawn LIMIT --limit-memory-bytes
;; limits: memory_bytes=1048576
(module (memory (export "memory") 17) (func (export "sp_step") (result i32) (i32.const 2)))
