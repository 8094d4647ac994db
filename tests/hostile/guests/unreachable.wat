;; world: application
;; Traps as soon as it is called.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (unreachable))
