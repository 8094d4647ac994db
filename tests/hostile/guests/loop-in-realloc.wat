;; world: application
;; Never takes its arguments: the host waits for memory to put them into.
(func $realloc (param i32 i32 i32 i32) (result i32)
  (loop (br 0)) (unreachable))
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (i32.const 0))
