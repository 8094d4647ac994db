;; world: application
;; One receipt with an output of a byte more than a mebibyte.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (drop (memory.grow (i32.const 32)))
  (i32.store (i32.const 256) (i32.const 512)) (i32.store (i32.const 260) (i32.const 1))
  (i32.store (i32.const 516) (i32.const 4096)) (i32.store (i32.const 520) (i32.const 1048577))
  (i32.const 256))
