;; world: engine
;; Gives slots of the host's own free.
(func $step (param i64 i32 i32) (result i32)
  (i32.store (i32.const 264) (i32.const 512)) (i32.store (i32.const 268) (i32.const 1))
  (i32.store8 (i32.const 512) (i32.const 7))
  (i32.store16 (i32.const 520) (i32.const 0x8002))
  (i64.store (i32.const 528) (i64.const -1)) (i64.store (i32.const 536) (i64.const -1))
  (i32.const 256))
