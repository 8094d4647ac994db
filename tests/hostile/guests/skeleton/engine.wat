(memory $memory 2)

(export "memory" (memory $memory))

(global $next (mut i32) (i32.const 65536))

(data (i32.const 64) "bad1\00\01")

(data (i32.const 128) "\40\00\00\00\03\00\00\00\43\00\00\00\01\00\00\00\44\00\00\00\02\00\00\00\01\00\00\00")

(func $realloc (param i32 i32 i32 i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
  (global.set $next (i32.add (local.get $at) (local.get 3)))
  (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
    (then (drop (memory.grow
      (i32.add (i32.shr_u (local.get 3) (i32.const 16)) (i32.const 1))))))
  (local.get $at))

(export "cabi_realloc" (func $realloc))

(func $describe (result i32) (i32.const 128))

(export "moult:engine/engine@0.1.0#describe" (func $describe))

(func $init (param i32) (result i32) (i32.const 0))

(export "moult:engine/engine@0.1.0#init" (func $init))

(func $judge (param i64 i32 i32 i32 i64 i64 i32 i32 i32 i32) (result i32) (i32.const 0))

(export "moult:engine/engine@0.1.0#judge" (func $judge))

(func $step (param i64 i32 i32) (result i32) (global.set $next (i32.const 65536)) (i32.const 0))

(export "moult:engine/engine@0.1.0#step" (func $step))
