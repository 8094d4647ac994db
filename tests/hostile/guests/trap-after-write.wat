;; world: application
;; Writes into the state, and traps.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (call $put (i32.const 64) (i32.const 3) (i32.const 64) (i32.const 1)) (unreachable))
