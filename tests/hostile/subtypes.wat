;; Types that may have subtypes: comparing them ends the process, where Wasmtime was built without GC.
;; expect: load UNSUPPORTED the GC proposal is not supported
(module
  (type $any (sub (func)))
  (type $some (sub $any (func)))
  (memory (export "memory") 1)
  (table 1 funcref)
  (elem (i32.const 0) $f)
  (func $f (type $some))
  (func (export "sp_step") (result i32)
    (call_indirect (type $any) (i32.const 0))
    (i32.const 2)))
