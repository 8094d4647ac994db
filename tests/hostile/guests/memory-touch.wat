;; world: application
;; Takes all memory and writes to every page of it.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (local $at i32)
  (block (loop
    (br_if 1 (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))
    (br 0)))
  (loop
    (i32.store8 (local.get $at) (i32.const 7))
    (local.set $at (i32.add (local.get $at) (i32.const 4096)))
    (br_if 0 (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))
  (i32.store (i32.const 256) (i32.const 512)) (i32.store (i32.const 260) (i32.const 1))
  (i32.store (i32.const 512) (memory.size)) (i32.store (i32.const 516) (i32.const 0))
  (i32.store (i32.const 520) (i32.const 0))
  (i32.const 256))
