;; world: application
;; Adds up all of its memory that nobody has written to.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (local $at i32) (local $sum i32)
  (drop (memory.grow (i32.const 500)))
  (local.set $at (i32.const 65536))
  (loop
    (local.set $sum (i32.or (local.get $sum) (i32.load (local.get $at))))
    (local.set $at (i32.add (local.get $at) (i32.const 4)))
    (br_if 0 (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))
  (i32.store (i32.const 256) (i32.const 512)) (i32.store (i32.const 260) (i32.const 1))
  (i32.store (i32.const 512) (local.get $sum))
  (i32.const 256))
