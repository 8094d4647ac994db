;; world: approval
;; Rejects with a reason of $BYTES bytes.
(func $evaluate (param i32) (result i32)
  (memory.fill (i32.const 4096) (i32.const 0x61) (i32.const $BYTES))
  (i32.store8 (i32.const 256) (i32.const 1))
  (i32.store (i32.const 260) (i32.const 4096)) (i32.store (i32.const 264) (i32.const $BYTES))
  (i32.const 256))
