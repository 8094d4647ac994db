;; world: engine
;; A message longer than messages may be.
(func $step (param i64 i32 i32) (result i32)
  (drop (memory.grow (i32.const 200)))
  (i32.store (i32.const 264) (i32.const 512)) (i32.store (i32.const 268) (i32.const 1))
  (i32.store8 (i32.const 512) (i32.const 1))
  (i32.store (i32.const 532) (i32.const 65536)) (i32.store (i32.const 536) (i32.const 1048577))
  (i32.const 256))
