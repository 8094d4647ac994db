;; world: application
;; Writes a mebibyte under one key after another.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (local $n i32)
  (drop (memory.grow (i32.const 40)))
  (loop
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (i32.store (i32.const 300) (local.get $n))
    (call $put (i32.const 300) (i32.const 4) (i32.const 4096) (i32.const 1048576))
    (br 0))
  (unreachable))
