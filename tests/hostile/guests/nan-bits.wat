;; world: application
;; Makes NaNs of a chosen payload and answers with their bits.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (i32.store (i32.const 256) (i32.const 512)) (i32.store (i32.const 260) (i32.const 2))
  (i32.store (i32.const 512) (i32.reinterpret_f32
    (f32.add (f32.reinterpret_i32 (i32.const 0x7fa12345)) (f32.const 1))))
  (i32.store (i32.const 524) (i32.reinterpret_f32
    (f32.div (f32.const -0) (f32.const 0))))
  (i32.const 256))
