;; world: application
;; Reads past its memory.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (i32.load (i32.const -4)))
