;; world: engine
;; A timer that fires at once, for ever.
(func $step (param i64 i32 i32) (result i32)
  (i32.store (i32.const 264) (i32.const 512)) (i32.store (i32.const 268) (i32.const 1))
  (i32.store8 (i32.const 512) (i32.const 2))
  (i64.store (i32.const 520) (i64.const 1)) (i64.store (i32.const 528) (i64.const 0))
  (i32.const 256))
