;; world: application
;; Never returns.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (loop (br 0)) (unreachable))
