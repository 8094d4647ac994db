;; world: application
;; Recurses without end, with a frame that the compiler cannot drop.
(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (call $deep))
