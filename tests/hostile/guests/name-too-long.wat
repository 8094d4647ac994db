;; world: application
;; A name of 60,000 bytes.
(func $describe (result i32)
  (memory.fill (i32.const 4096) (i32.const 0x61) (i32.const 60000))
  (i32.store (i32.const 128) (i32.const 4096)) (i32.store (i32.const 132) (i32.const 60000)) (i32.const 128))
