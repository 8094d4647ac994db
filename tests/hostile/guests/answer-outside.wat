;; world: application
;; Its answer lies outside of its memory.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (i32.const -8))
