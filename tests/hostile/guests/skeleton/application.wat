(import "moult:application/state@0.1.0" "get" (func $get (param i32 i32 i32)))

(import "moult:application/state@0.1.0" "put" (func $put (param i32 i32 i32 i32)))

(memory $memory 2)

(export "memory" (memory $memory))

(global $next (mut i32) (i32.const 4096))

(data (i32.const 64) "bad1")

(data (i32.const 128) "\40\00\00\00\03\00\00\00\43\00\00\00\01\00\00\00")

(func $realloc (param i32 i32 i32 i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
  (global.set $next (i32.add (local.get $at) (local.get 3)))
  (local.get $at))

(export "cabi_realloc" (func $realloc))

(func $describe (result i32) (i32.const 128))

(export "moult:application/application@0.1.0#describe" (func $describe))

(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (unreachable))

(export "moult:application/application@0.1.0#execute" (func $execute))

(func $query (param i32 i32 i32 i32) (result i32) (unreachable))

(export "moult:application/application@0.1.0#query" (func $query))

(func $upgrade (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 0))

(export "moult:application/application@0.1.0#upgrade" (func $upgrade))
