;; world: engine
;; Asks for a signature on a slot of the host's own: a prepare.
(func $step (param i64 i32 i32) (result i32)
  (i32.store (i32.const 264) (i32.const 512)) (i32.store (i32.const 268) (i32.const 1))
  (i32.store16 (i32.const 536) (i32.const 0x8002))
  (i32.const 256))
