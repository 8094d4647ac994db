;; world: application
;; Divides by zero.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (i32.div_u (i32.const 1) (i32.const 0)))
