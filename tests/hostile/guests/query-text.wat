;; world: application
;; An error whose text is no text.
(func $query (param i32 i32 i32 i32) (result i32)
  (i32.store8 (i32.const 256) (i32.const 1))
  (i32.store (i32.const 260) (i32.const 300)) (i32.store (i32.const 264) (i32.const 2))
  (i32.store16 (i32.const 300) (i32.const 0xc0c0))
  (i32.const 256))
