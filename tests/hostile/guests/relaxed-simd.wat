;; world: application
;; What processors do differently: fused multiplication, conversion of what does not fit.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (i32.store (i32.const 256) (i32.const 512)) (i32.store (i32.const 260) (i32.const 2))
  (i32.store (i32.const 512) (i32x4.extract_lane 0 (i32x4.relaxed_trunc_f32x4_s
    (v128.const f32x4 3e9 nan 0 0))))
  (i32.store (i32.const 524) (i32x4.extract_lane 0 (f32x4.relaxed_madd
    (v128.const f32x4 0x1.000002p+0 0 0 0) (v128.const f32x4 0x1.000002p+0 0 0 0)
    (v128.const f32x4 -0x1.000004p+0 0 0 0))))
  (i32.const 256))
