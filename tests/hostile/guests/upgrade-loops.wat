;; world: application
;; A migration without end.
(func $upgrade (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (loop (br 0)) (unreachable))
