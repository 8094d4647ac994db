;; world: application
;; A name that is no text.
(data (i32.const 96) "\ff\fe\fd")
(func $describe (result i32) (i32.store (i32.const 128) (i32.const 96)) (i32.const 128))
