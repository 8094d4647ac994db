;; world: application
;; A list that begins at the end of memory.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (i32.store (i32.const 256) (i32.const -64)) (i32.store (i32.const 260) (i32.const 9)) (i32.const 256))
