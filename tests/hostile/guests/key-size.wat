;; world: application
;; Writes a pair of $KEY and $VALUE bytes.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (drop (memory.grow (i32.const 40)))
  (call $put (i32.const 4096) (i32.const $KEY) (i32.const 4096) (i32.const $VALUE)) (i32.const 0))
