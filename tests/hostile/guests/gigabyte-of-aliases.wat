;; world: application
;; Ten thousand receipts that all point to the same 100 KiB: a gigabyte for the host.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (local $at i32) (local $n i32)
  (i32.store (i32.const 256) (i32.const 1024)) (i32.store (i32.const 260) (i32.const 10000))
  (local.set $at (i32.const 1024))
  (loop
    (i32.store (i32.add (local.get $at) (i32.const 4)) (i32.const 1024))
    (i32.store (i32.add (local.get $at) (i32.const 8)) (i32.const 100000))
    (local.set $at (i32.add (local.get $at) (i32.const 12)))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if 0 (i32.lt_u (local.get $n) (i32.const 10000))))
  (i32.const 256))
