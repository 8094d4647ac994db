;; world: application
;; A thousand million small questions to the host.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (loop (call $get (i32.const 64) (i32.const 3) (i32.const 256)) (br 0))
  (unreachable))
