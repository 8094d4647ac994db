;; world: application
;; Counts its calls in a global: whether an instance outlives a call.
(global $calls (mut i32) (i32.const 0))
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
  (i32.store (i32.const 256) (i32.const 512)) (i32.store (i32.const 260) (i32.const 1))
  (i32.store (i32.const 512) (global.get $calls))
  (i32.const 256))
