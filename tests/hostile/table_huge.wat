;; Tables are memory of the host.
;; expect: spawn GUEST table
(module (memory (export "memory") 1) (table 100000000 funcref) (func (export "sp_step") (result i32) (i32.const 2)))
