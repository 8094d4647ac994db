;; world: application
;; A name that would rewrite a terminal.
(data (i32.const 96) "\1b[2J")
(func $describe (result i32)
  (i32.store (i32.const 128) (i32.const 96)) (i32.store (i32.const 132) (i32.const 4)) (i32.const 128))
