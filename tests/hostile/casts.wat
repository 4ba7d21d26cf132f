;; The same, by a cast.
;; expect: load UNSUPPORTED the GC proposal is not supported
(module
  (type $any (sub (func)))
  (memory (export "memory") 1)
  (elem declare func $f)
  (func $f)
  (func (export "sp_step") (result i32)
    (drop (ref.cast (ref $any) (ref.func $f)))
    (i32.const 2)))
