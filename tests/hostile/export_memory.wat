;; expect: load UNSUPPORTED exports no memory
(module (memory 1) (table (export "memory") 1 funcref) (func (export "sp_step") (result i32) (i32.const 2)))
